"""Scripting parts of modules with observed types: what stays exact, and what advice says."""

from __future__ import annotations

import io
import os
import pickle
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
import unannotated
from torch import Tensor, nn

from ts_infer._export.capture import clone_module
from ts_infer._export.observe import WHOLE, Function, Observation, observe
from ts_infer._export.scripting import (
    ScriptedPart,
    ScriptingError,
    give_types,
    keep_state,
    script_units,
)
from ts_infer.models import decision_gate, densetnt
from ts_infer.models.densetnt import goals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

models: Any = unannotated
X = torch.linspace(-2, 3, 20).reshape(5, 4)
_jit: Any = torch.jit


@dataclass
class Result:
    parts: list[ScriptedPart]
    equal: list[bool]


def in_child(task: Callable[[], Any]) -> Any:
    """Run a task in a fork, which may spoil torch.jit's memory of classes."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads
        child = os.fork()
    if child == 0:
        try:
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)
            try:
                answer = True, task()
            except ScriptingError as error:
                answer = False, error
            except BaseException:
                answer = False, traceback.format_exc()
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    fine, answer = pickle.loads(data)
    if not fine:
        raise answer if isinstance(answer, ScriptingError) else AssertionError(answer)
    return answer


def named(*names: str) -> Callable[[Function], bool]:
    return lambda function: function.key[2] in names


def hybrid(
    module: nn.Module,
    inputs: Sequence[Any],
    choose: Callable[[Function], bool] | None,
    others: Sequence[Sequence[Any]] = (),
    setup: Callable[[], None] = lambda: None,
) -> Result:
    """Script the units of the chosen functions, trace the rest, and compare after save and load."""
    module.eval()

    def attempt() -> Result:
        setup()
        with torch.no_grad():
            seen, _ = clone_module(module)
            observation: Observation = observe(module, lambda: seen(*inputs))
            observation = pickle.loads(pickle.dumps(observation))
            units = [WHOLE]
            if choose is not None:
                units = [
                    observation.unit_of(f) for f in observation.functions.values() if choose(f)
                ]
            work, _ = clone_module(module)
            give_types(work, observation)
            work, parts = script_units(work, observation, units)
            exported = work
            if choose is not None:
                restore = keep_state(work)
                exported = _jit.trace(work, tuple(inputs), strict=False, check_trace=False)
                restore()
            buffer = io.BytesIO()
            _jit.save(exported, buffer)
            buffer.seek(0)
            loaded = _jit.load(buffer)
            equal = [_same(loaded(*given), module(*given)) for given in (inputs, *others)]
        return Result(parts, equal)

    result: Result = in_child(attempt)
    return result


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, atol=1e-6))


def lanes(n: int, vectors: int, scale: float, seed: int, empty: int = -1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(n, vectors, 8, generator=generator) * scale
    count = torch.randint(1, vectors + 1, (n, 1), generator=generator)
    if empty >= 0:
        count[empty] = 0
    return data, torch.arange(vectors) < count


SCENES = [lanes(4, 6, 1.0, 0), lanes(4, 6, 5.0, 1, empty=1), lanes(7, 5, 0.3, 2), lanes(2, 9, 3, 3)]


def test_decision_gate_is_scripted_alone() -> None:
    result = hybrid(
        decision_gate.make(), (X, X), named("MyDecisionGate.forward"), [(-X, X), (X[:2] * 3, X[:2])]
    )
    assert result.equal == [True] * 3
    assert [(part.name, part.kind) for part in result.parts] == [("dg", "module")]
    assert result.parts[0].file == decision_gate.__file__


def test_goal_sampling_needs_no_hand_edit() -> None:
    chosen = named("get_goal_2D", "select_goals_by_nms")
    result = hybrid(models.GoalSampler(), SCENES[0], chosen, SCENES[1:])
    assert result.equal == [True] * 4
    assert [part.kind for part in result.parts] == ["function", "function"]


@pytest.mark.parametrize(
    ("head", "choose_goals"), [("set", "likely_goals"), ("nms", "select_goals_by_nms")]
)
def test_densetnt_with_plain_goal_sampling_equals_densetnt(
    head: Literal["set", "nms"], choose_goals: str
) -> None:
    """The model's scripted functions are replaced by plain ones without annotations."""
    model = densetnt.make(config=densetnt.DenseTNTConfig(goal_head=head))
    scene = densetnt.scene_to_inputs(densetnt.default_scene())
    inputs = [scene[name] for name in densetnt.INPUT_NAMES]
    fewer = [*inputs[:3], inputs[3] & (torch.arange(len(inputs[3])) % 2 == 0)]
    names = ("get_goal_2D", choose_goals)

    def use_plain_functions() -> None:
        for name in names:
            setattr(goals, name, getattr(models, name))

    result = hybrid(model, inputs, named(*names), [fewer], use_plain_functions)
    assert result.equal == [True, True]
    assert [part.name for part in result.parts] == list(names)


def test_branch_deep_inside_and_module_used_twice() -> None:
    module = models.DeepBranch()
    result = hybrid(
        module, (X, X), named("Block.forward"), [(-X, X), (X, -9 * X), (X[:2] * 3, -X[:2])]
    )
    assert result.equal == [True] * 4
    assert [part.name for part in result.parts] == ["layers.0.1", "shared"]


def test_inherited_method_and_super() -> None:
    module = models.Inheriting()
    result = hybrid(module, (X,), named("MyDecisionGate.forward"), [(-X,), (X / 9,), (-X / 9,)])
    assert result.equal == [True] * 4
    assert [part.name for part in result.parts] == ["first", "second"]


def test_functions_are_replaced_under_all_names_and_keep_their_decorator() -> None:
    chosen = named("add_until_positive", "gated")
    result = hybrid(models.Functions(), (X,), chosen, [(-X,), (X - 0.6,), (X * 0,)])
    assert result.equal == [True] * 4
    assert {part.name for part in result.parts} == {"add_until_positive", "gated"}


def test_methods_other_than_forward_are_compiled() -> None:
    result = hybrid(models.UsesCodec(), (X,), named("Codec.encode"), [(-X,)])
    assert result.equal == [True, True]


@pytest.mark.parametrize("module", [models.RowLoop(), models.Counting(), models.Accumulating()])
def test_loops_over_sizes_and_lists_of_numbers(module: nn.Module) -> None:
    result = hybrid(module, (X,), None, [(X[:2],), (-X,), (-X.abs(),), (torch.cat([X, X]),)])
    assert result.equal == [True] * 5


@pytest.mark.parametrize(
    "module", [models.Functions(), models.Inheriting(), models.UsesCache(), models.DeepBranch()]
)
def test_whole_module(module: nn.Module) -> None:
    inputs = (X, X) if isinstance(module, models.DeepBranch) else (X,)
    negated = tuple(-x for x in inputs)
    assert hybrid(module, inputs, None, [negated]).equal == [True, True]


def test_cache_starts_empty_and_is_kept_between_calls() -> None:
    result = hybrid(models.UsesCache(), (X,), named("Cache.forward"), [(X,), (-X,)])
    assert result.equal == [True] * 3


def test_a_failed_attempt_before_does_not_spoil_the_next() -> None:
    def fail_before() -> None:
        with pytest.raises(RuntimeError):
            _jit.script(models.Counting().eval())

    assert hybrid(models.Counting(), (X,), None, [(-X,)], fail_before).equal == [True, True]


@pytest.mark.parametrize(
    ("module", "line", "advice"),
    [
        (models.UnseenList(), "counts = []", "write counts: List[int] = []"),
        (models.UnseenCall(), "def repeated(x, n):", "write def repeated(x, n: int):"),
        (models.UsesNumpy(), "np.abs(y.numpy())", "TorchScript has no NumPy"),
        (models.Tolist(), ".tolist()", "values: List[int] = ….tolist()"),
        (models.CacheAttribute(), "x = x + self.previous", "value = self.name"),
        (models.ChangingType(), "weight = 0.5", "start it as float, not as int"),
        (models.LambdaInside(), "key = lambda", "no try, lambda"),
        (models.KeywordOnly(), "def forward(self, x, *, factor=2)", "write plain arguments"),
    ],
)
def test_failures_name_the_line_and_say_what_to_write(
    module: nn.Module, line: str, advice: str
) -> None:
    with pytest.raises(ScriptingError) as caught:
        hybrid(module, (X,), None)
    error = caught.value
    assert advice in error.advice
    assert error.unit == WHOLE
    assert line in Path(error.file).read_text(encoding="utf-8").splitlines()[error.line - 1]
