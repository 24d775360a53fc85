"""Example models, ready to export: each module offers ``make``, example inputs and ``export_spec``.

``decision_gate``
    The smallest model that a plain trace gets wrong: one data-dependent branch.
``densetnt``
    DenseTNT, a trajectory predictor whose number of goals depends on the map.
"""
