"""The config: its schema with every bound, and loading it from YAML with overrides.

One frozen class per block; what a component takes is checked by the class that its name stands for
(see ``realdataexp.registry``). All faults of a config are found in one pass and raised as one
`InputError`, a line each.
"""

from realdataexp.config.arms import ArmConfig, ArmsConfig, ExploreConfig, OutcomeConfig
from realdataexp.config.blocks import (
    ARMS,
    NO_MODEL,
    FeatureConfig,
    LabelConfig,
    LabelFeatures,
    PretrainConfig,
    SimulationConfig,
    ValidationConfig,
)
from realdataexp.config.dataset import DatasetConfig
from realdataexp.config.experiment import (
    DesignConfig,
    ExperimentConfig,
    LoggingConfig,
    TrackerConfig,
)
from realdataexp.config.load import design_blocks, json_schema, load_config
from realdataexp.config.schema import MODES, Config, default_cache_dir
from realdataexp.configs import built_in_names

__all__ = [
    "ARMS",
    "MODES",
    "NO_MODEL",
    "ArmConfig",
    "ArmsConfig",
    "Config",
    "DatasetConfig",
    "DesignConfig",
    "ExperimentConfig",
    "ExploreConfig",
    "FeatureConfig",
    "LabelConfig",
    "LabelFeatures",
    "LoggingConfig",
    "OutcomeConfig",
    "PretrainConfig",
    "SimulationConfig",
    "TrackerConfig",
    "ValidationConfig",
    "built_in_names",
    "default_cache_dir",
    "design_blocks",
    "json_schema",
    "load_config",
]
