"""Lightning callbacks that watch a run and never steer its maths: one class a file."""

from callbacks.checkpointing.last_checkpoint import LastCheckpoint
from callbacks.checkpointing.preemption import Preemption
from callbacks.data_counts import DataCounts
from callbacks.granularity_histogram import GranularityHistogram
from callbacks.image_gallery import ImageGallery
from callbacks.loss_record import LossRecord
from callbacks.policy_table import PolicyTable
from callbacks.predictions_writer import PredictionsWriter
from callbacks.results_writer import ResultsWriter
from callbacks.run_progress import RunProgress
from callbacks.save_config import SaveConfig
from callbacks.throughput import Throughput
from callbacks.token_savings import TokenSavings
from callbacks.watcher import Watcher

__all__ = [
    "DataCounts",
    "GranularityHistogram",
    "ImageGallery",
    "LastCheckpoint",
    "LossRecord",
    "PolicyTable",
    "PredictionsWriter",
    "Preemption",
    "ResultsWriter",
    "RunProgress",
    "SaveConfig",
    "Throughput",
    "TokenSavings",
    "Watcher",
]
