"""The config: its schema with every bound, and loading it from YAML with overrides.

One frozen class per section; what a component takes is checked by the class that its name stands
for (see ``realdataexp.registry``). All faults of a config are found in one pass and raised as one
`InputError`, a line each.
"""

from realdataexp.config.experiment import Component as Component
from realdataexp.config.experiment import LogConfig as LogConfig
from realdataexp.config.experiment import SimulationConfig as SimulationConfig
from realdataexp.config.experiment import TrackerConfig as TrackerConfig
from realdataexp.config.load import design_sections as design_sections
from realdataexp.config.load import json_schema as json_schema
from realdataexp.config.load import load_config as load_config
from realdataexp.config.schema import MODES as MODES
from realdataexp.config.schema import Config as Config
from realdataexp.config.schema import RunSettings as RunSettings
from realdataexp.config.schema import default_cache_dir as default_cache_dir
from realdataexp.config.sections import ARMS as ARMS
from realdataexp.config.sections import NO_MODEL as NO_MODEL
from realdataexp.config.sections import DerivedConfig as DerivedConfig
from realdataexp.config.sections import FeatureConfig as FeatureConfig
from realdataexp.config.sections import LabelConfig as LabelConfig
from realdataexp.config.sections import LabelFeatures as LabelFeatures
from realdataexp.config.sections import Section as Section
from realdataexp.config.sections import setting as setting
from realdataexp.configs import built_in_names as built_in_names
