"""What the module itself does on the example: its results, its state, what it draws and changes."""

from __future__ import annotations

import ast
import dis
import enum
import inspect
import linecache
import pickle
import random
import sys
import textwrap
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ts_infer._export import manifest, variants
from ts_infer._export.arguments import tensors_of
from ts_infer._export.capture import clone_module, eager_failure
from ts_infer._export.compare import compare, leaves
from ts_infer._export.gradients import grad_mode
from ts_infer._export.locate import first_change, first_write, syntax_tree
from ts_infer._export.observe import Observation, definitions, methods, observe
from ts_infer._export.outputs import settled
from ts_infer._export.source import Statement, is_user_file

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

    from ts_infer._export.arguments import Example
    from ts_infer._export.observe import Definition
    from ts_infer._export.report import Finding

# Methods that change a container and give nothing back.
_WRITERS = frozenset({"append", "extend", "clear", "update", "insert", "add", "setdefault"})


@dataclass
class PythonState:
    """A plain Python value that each call changes and that the code reads.

    Attributes:
        name: Its name, with its module's path.
        owner: The path of the submodule that has it, "" for the root; None for a global.
        file: Where the code reads it.
        line: The line of that.
        source: The text of that.
    """

    name: str
    owner: str | None
    file: str | None = None
    line: int | None = None
    source: str = ""


@dataclass
class Eager:
    """What the module does on the example.

    Attributes:
        failure: Why it fails there; then nothing else is known.
        results: For each of the calls in a row on one instance, the leaves of the result.
        output_names: Default names of the leaves.
        seconds: Wall time of one call on one thread.
        state: Tensors of the module that calls change, by path.
        python_state: Plain Python values that calls change and read.
        caches: Plain Python values that only the first call changes.
        mutated: Inputs that it writes into.
        added: What it puts into the lists and dicts that it is given.
        mutated_at: The first statement that writes into an input.
        draws: Where it draws random numbers: "torch", "random", "numpy".
        draws_at: The first statement that draws from Python's or NumPy's random numbers.
        asked_keys: Keys that it asked the example's dicts for in vain.
        used_arguments: Arguments that forward's source uses.
        constants: Numbers and strings in the user's functions that ran.
        observation: Which functions ran, on what types; None for a scripted module.
        warnings: What the first call warned of: text, category, file and line.
    """

    failure: Finding | None = None
    results: list[list[Any]] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
    seconds: float = 0.0
    state: list[str] = field(default_factory=list)
    python_state: list[PythonState] = field(default_factory=list)
    caches: list[str] = field(default_factory=list)
    mutated: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    mutated_at: Statement | None = None
    draws: list[str] = field(default_factory=list)
    draws_at: Statement | None = None
    asked_keys: list[str] = field(default_factory=list)
    used_arguments: list[str] = field(default_factory=list)
    constants: list[int | float | str] = field(default_factory=list)
    observation: Observation | None = None
    warnings: list[tuple[str, type[Warning], str, int]] = field(default_factory=list)


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """Seed torch's generators for a block and put them back afterwards."""
    cuda: Any = torch.cuda
    # Asking for the devices would start a context on each.
    devices = range(cuda.device_count()) if cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _one_outcome_draws_nothing() -> Iterator[None]:
    """Let randrange(1), and what else has one outcome, leave Python's random numbers alone."""
    instance: Any = random.seed.__self__  # type: ignore[attr-defined]
    draw = instance._randbelow
    instance._randbelow = lambda count: 0 if count == 1 else draw(count)
    try:
        yield
    finally:
        del instance._randbelow


@_one_outcome_draws_nothing()
def watch_eager(module: nn.Module, example: Example, calls: int) -> Eager:
    """Run a copy of the module and see what it does.

    Args:
        module: The module, in eval mode; neither it nor its state changes.
        example: The example inputs.
        calls: How many calls in a row to make on one instance, at least one.

    Returns:
        What was seen.
    """
    found = Eager()
    copied, _ = clone_module(module)
    given = variants.example(example).make
    before = _tensors(copied)
    inputs = given()
    untouched = {path: _fingerprint(tensor) for path, tensor in tensors_of(inputs)}
    draws = _random_states()
    results = []
    histories = [_python_values(copied)]

    def call(values: tuple[Any, ...]) -> Any:
        with grad_mode(), fixed_seed():
            seeded = torch.get_rng_state()
            result = settled(example.call(copied, values))
            if not torch.equal(seeded, torch.get_rng_state()):
                found.draws = ["torch"]
            return result

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if isinstance(copied, torch.jit.ScriptModule):
                results.append(call(inputs))
            else:
                found.observation = observe(copied, lambda: results.append(call(inputs)))
        found.warnings = [_portable(warning) for warning in caught]
        left = dict(tensors_of(inputs))
        changed = [
            example.label(path)
            for path, old in untouched.items()
            if path not in left or _fingerprint(left[path]) != old
        ]
        found.mutated = changed
        given_back = example.with_values(inputs)
        found.added = [given_back.label(path) for path in left if path not in untouched]
        if changed:
            again = given()
            tensors = [tensor for _, tensor in tensors_of(again)]
            other, _ = clone_module(module)
            found.mutated_at = first_write(lambda: _call(other, example, again), tensors)
        functions = _user_functions(lambda: _timed(found, lambda: results.append(call(given()))))
        histories.append(_python_values(copied, functions))
        if calls > 2:
            call(given())
            histories.append(_python_values(copied, functions))
            other = variants.values(example)
            if other:
                _ignore_errors(lambda: call(other[0].make()))
                histories.append(_python_values(copied, functions))
    except Exception as error:
        found.failure = eager_failure(error)
        return found
    found.results = [[leaf for _, leaf in leaves(result)] for result in results]
    found.used_arguments = _used_arguments(module)
    found.constants = _constants([code for code, _ in functions])
    found.output_names = manifest.default_output_names(results[0])
    drawn = [name for name, state in _random_states().items() if state != draws[name]]
    if drawn:
        found.draws += drawn
        other, _ = clone_module(module)
        found.draws_at = first_change(lambda: _call(other, example, given()), _random_states)
    if calls > 2:
        found.asked_keys = _asked_keys(module, example)
    after = _tensors(copied)
    written = [
        PythonState(name, name.rpartition(".")[0])
        for name, value in after.items()
        if before.get(name, value) != value
    ]
    read = _without_overwritten(module, example, copied, written)
    found.state = [state.name for state in read]
    _sort_python_state(found, copied, histories)
    found.python_state = _without_overwritten(module, example, copied, found.python_state)
    return found


class _Unread:
    """What nothing may be done with: stands for a value that is overwritten before it is read."""

    def _read(self, *_: Any) -> Any:
        raise _ReadError

    __getattr__ = __bool__ = __len__ = __iter__ = __eq__ = __ne__ = __call__ = __getitem__ = _read
    __setitem__ = __contains__ = __str__ = __repr__ = __lt__ = __gt__ = __le__ = __ge__ = _read
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __index__ = __float__ = _read
    __int__ = __iadd__ = __hash__ = _read


class _ReadError(Exception):
    """An _Unread was read."""


def _without_overwritten(
    module: nn.Module, example: Example, used: nn.Module, states: list[PythonState]
) -> list[PythonState]:
    """Leave out the attributes that each call writes before it reads them: no call depends on them.

    Args:
        module: The module, which stays as it is.
        example: The example inputs.
        used: A copy that made some calls.
        states: The attributes.
    """

    def are_overwritten(some: list[PythonState]) -> bool:
        return _are_overwritten(module, example, used, some)

    if not states or are_overwritten(states):
        return []
    if len(states) == 1:
        return states
    return [state for state in states if not are_overwritten([state])]


def _are_overwritten(
    module: nn.Module, example: Example, used: nn.Module, states: list[PythonState]
) -> bool:
    """Whether calls do the same with something in the attributes' places that cannot be read.

    Tried on the example and on other values. Of an object that is no container, what changed in it
    is replaced.
    """
    for variant in (variants.example(example), *variants.values(example)):
        given = variant.given or example
        fresh, _ = clone_module(module)
        changed, _ = clone_module(module)
        try:
            for state in states:
                if state.owner is None:
                    return False
                name = state.name.removeprefix(f"{state.owner}." if state.owner else "")
                owner, other = changed.get_submodule(state.owner), used.get_submodule(state.owner)
                _put_unread(owner, other, name)
            expected = _call(fresh, given, variant.make())
            result = _call(changed, given, variant.make())
        except Exception:
            return False
        if compare(expected, result).difference is not None:
            return False
    return True


# What a call replaces, and does not change from within.
_WHOLE = (int, float, complex, str, bytes, list, tuple, dict, set, torch.Tensor, enum.Enum)


def _put_unread(holder: Any, used: Any, name: str) -> None:
    """Put an _Unread for an attribute, or for those attributes of it that calls change."""
    own, other = getattr(holder, name, None), getattr(used, name, None)
    if type(own) is not type(other) or isinstance(own, _WHOLE) or not hasattr(own, "__dict__"):
        setattr(holder, name, _Unread())
        return
    changed = [
        key
        for key in {**vars(own), **vars(other)}
        if _fingerprint(vars(own).get(key)) != _fingerprint(vars(other).get(key))
    ]
    if not changed:  # it is another one, as functions are
        setattr(holder, name, _Unread())
    for key in changed:
        _put_unread(own, other, key)


def _call(module: nn.Module, example: Example, values: tuple[Any, ...]) -> Any:
    with grad_mode(), fixed_seed():
        return example.call(module, values)


class _Asked(dict[Any, Any]):
    """A dict that notes the keys that it does not have and is asked for."""

    asked: dict[str, None]

    def __init__(self, given: dict[Any, Any], asked: dict[str, None]) -> None:
        super().__init__(given)
        self.asked = asked

    def _note(self, key: Any) -> None:
        if isinstance(key, str) and not dict.__contains__(self, key):
            self.asked[key] = None

    def __contains__(self, key: Any) -> bool:
        self._note(key)
        return super().__contains__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __missing__(self, key: Any) -> Any:
        self._note(key)
        raise KeyError(key)


def _asked_keys(module: nn.Module, example: Example) -> list[str]:
    asked: dict[str, None] = {}
    values = tuple(
        _Asked(value, asked) if isinstance(value, dict) else value
        for value in variants.example(example).make()
    )
    if any(isinstance(value, _Asked) for value in values):
        other, _ = clone_module(module)
        _ignore_errors(lambda: _call(other, example, values))
    return list(asked)


def _used_arguments(module: nn.Module) -> list[str]:
    if isinstance(module, torch.jit.ScriptModule):
        return []
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return []
    loads = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    }
    return [name for name in inspect.signature(type(module).forward).parameters if name in loads]


def _constants(codes: list[types.CodeType]) -> list[int | float | str]:
    found: dict[tuple[type, Any], None] = {}  # 1 equals 1.0

    def note(value: Any) -> None:
        if isinstance(value, (tuple, frozenset)):
            for item in value:
                note(item)
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            found[type(value), value] = None

    for code in codes:
        note(code.co_consts)
    return [value for _, value in found]


def _portable(warning: warnings.WarningMessage) -> tuple[str, type[Warning], str, int]:
    category = warning.category
    try:
        pickle.dumps(category)
    except (pickle.PicklingError, AttributeError):
        category = UserWarning
    return str(warning.message), category, warning.filename, warning.lineno


def _timed(found: Eager, call: Any) -> None:
    start = time.perf_counter()
    call()
    found.seconds = time.perf_counter() - start


def _ignore_errors(call: Any) -> None:
    try:
        call()
    except Exception:
        return


def _fingerprint(value: Any) -> Any:
    """Return something that is equal for equal values; for what cannot be read, its identity."""
    if isinstance(value, torch.Tensor):
        try:
            data = value.detach().to_dense().cpu().contiguous().flatten().view(torch.uint8)
            digest = sha256(data.numpy().tobytes()).hexdigest()
        except (RuntimeError, TypeError, NotImplementedError):
            digest = f"{id(value)}.{value._version}"
        return (str(value.dtype), tuple(value.shape), digest)
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_fingerprint(item) for item in value))
    if isinstance(value, dict):
        return tuple((repr(key), _fingerprint(item)) for key, item in value.items())
    try:
        return sha256(pickle.dumps(value)).hexdigest()
    except Exception:
        return id(value)


def _tensors(module: nn.Module) -> dict[str, Any]:
    found = {name: _fingerprint(t) for name, t in module.named_buffers()}
    found |= {name: _fingerprint(t) for name, t in module.named_parameters()}
    for path, child in module.named_modules():
        for name, value in vars(child).items():
            if isinstance(value, torch.Tensor):
                found[f"{path}.{name}" if path else name] = _fingerprint(value)
    return found


def _python_values(
    module: nn.Module, functions: list[tuple[types.CodeType, dict[str, Any]]] | None = None
) -> dict[tuple[str, str], Any]:
    """Fingerprints by owner ("" is the root, "globals of FILE" for globals) and name."""
    found: dict[tuple[str, str], Any] = {}
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            continue
        for name, value in vars(child).items():
            if (name.startswith("_") and name in _MODULE_INTERNALS) or name == "training":
                continue
            if not isinstance(value, (torch.Tensor, nn.Module)):
                found[path, name] = _fingerprint(value)
    for code, namespace in functions or ():
        for name in _globals_touched(code):
            value = namespace.get(name)
            if isinstance(value, (bool, int, float, str, list, dict, set, type(None))):
                found[f"globals of {code.co_filename}", name] = _fingerprint(value)
    return found


_MODULE_INTERNALS = frozenset(vars(nn.Module()))


def _globals_touched(code: types.CodeType) -> set[str]:
    names = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "LOAD_GLOBAL") and isinstance(
            instruction.argval, str
        ):
            names.add(instruction.argval)
    return names


def _user_functions(call: Any) -> list[tuple[types.CodeType, dict[str, Any]]]:
    found: dict[types.CodeType, dict[str, Any]] = {}

    def hook(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call" and is_user_file(frame.f_code.co_filename):
            found.setdefault(frame.f_code, frame.f_globals)

    sys.setprofile(hook)
    try:
        call()
    finally:
        sys.setprofile(None)
    return list(found.items())


def _random_states() -> dict[str, Any]:
    return {
        "random": _fingerprint(random.getstate()),
        "numpy": _fingerprint(np.random.get_state(legacy=False)),
    }


def _sort_python_state(
    found: Eager, module: nn.Module, histories: list[dict[tuple[str, str], Any]]
) -> None:
    for key in histories[-1]:
        values = [history[key] for history in histories if key in history]
        # What only the first call fills in is a cache: later calls find it as they left it.
        later = values[1:] if key in histories[0] else values
        owner, name = key
        label = f"{owner}.{name}" if owner and not owner.startswith("globals") else name
        if any(value != later[0] for value in later[1:]):
            place = _place_that_reads(module, owner, name)
            if place is not None:
                path = None if owner.startswith("globals of ") else owner
                found.python_state.append(PythonState(label, path, *place))
        elif values[0] != values[-1]:
            found.caches.append(label)


def _place_that_reads(module: nn.Module, owner: str, name: str) -> tuple[str, int, str] | None:
    """Where the code uses an attribute's value, other than to change it."""
    if owner.startswith("globals of "):
        file = owner.removeprefix("globals of ")
        return _first_read(syntax_tree(file), file, lambda node: isinstance(node, ast.Name), name)
    # By its methods: `inspect` does not find a class of a notebook.
    for _, function in methods(type(module.get_submodule(owner))):
        code = function.__code__
        file = code.co_filename
        known = definitions(file) if is_user_file(file) else {}
        node = known.get((code.co_firstlineno, code.co_name))
        place = None if node is None else _first_read(node, file, _is_attribute_of(node), name)
        if place is not None:
            return place
    return None


def _is_attribute_of(method: Definition) -> Callable[[ast.AST], bool]:
    arguments = [*method.args.posonlyargs, *method.args.args]
    own = arguments[0].arg if arguments else "self"

    def check(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == own
        )

    return check


def _first_read(
    tree: ast.AST, file: str, is_kind: Callable[[ast.AST], bool], name: str
) -> tuple[str, int, str] | None:
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not is_kind(node) or name != getattr(node, "attr", getattr(node, "id", None)):
            continue
        if not isinstance(node.ctx, ast.Load) or _only_writes(node, parents):  # type: ignore[attr-defined]
            continue
        line = node.lineno  # type: ignore[attr-defined]
        return file, line, linecache.getline(file, line).strip()
    return None


def _only_writes(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a loaded container is only changed: `x.append(…)`, `x[key] = …`."""
    parent = parents.get(node)
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Store)
    if isinstance(parent, ast.Attribute) and parent.attr in _WRITERS:
        call = parents.get(parent)
        return isinstance(call, ast.Call) and isinstance(parents.get(call), ast.Expr)
    return False
