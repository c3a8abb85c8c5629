"""The config: its schema with every bound, and loading it from YAML with overrides.

One frozen model per block. All faults of a config are found in one pass and raised as one
`InputError`, a line each.
"""

from realdataexp.config.blocks import (
    DESIGNS,
    INTERVALS,
    LOSSES,
    MODELS,
    MODES,
    NO_MODEL,
    DatasetConfig,
    FeatureConfig,
    LabelConfig,
    MLPParams,
    PretrainConfig,
    Si2023Config,
    SimulationConfig,
    SyntheticConfig,
    ValidationConfig,
)
from realdataexp.config.designs import (
    ClusterOptions,
    SplittingOptions,
    SwitchbackOptions,
    WeightingOptions,
)
from realdataexp.config.experiment import DesignConfig, ExperimentConfig
from realdataexp.config.load import json_schema, load_config
from realdataexp.config.logs import (
    TRACKERS,
    LoggingConfig,
    MLflowOptions,
    TensorBoardOptions,
    TrackerConfig,
)
from realdataexp.config.schema import Config, default_cache_dir
from realdataexp.configs import built_in_names

__all__ = [
    "DESIGNS",
    "INTERVALS",
    "LOSSES",
    "MODELS",
    "MODES",
    "NO_MODEL",
    "TRACKERS",
    "ClusterOptions",
    "Config",
    "DatasetConfig",
    "DesignConfig",
    "ExperimentConfig",
    "FeatureConfig",
    "LabelConfig",
    "LoggingConfig",
    "MLPParams",
    "MLflowOptions",
    "PretrainConfig",
    "Si2023Config",
    "SimulationConfig",
    "SplittingOptions",
    "SwitchbackOptions",
    "SyntheticConfig",
    "TensorBoardOptions",
    "TrackerConfig",
    "ValidationConfig",
    "WeightingOptions",
    "built_in_names",
    "default_cache_dir",
    "json_schema",
    "load_config",
]
