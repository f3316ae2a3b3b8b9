"""Token compressors: tensors in, tensors out."""

from bigain.compressors.abm import ABM
from bigain.compressors.anchored import Anchored
from bigain.compressors.base import Compressor, Plan
from bigain.compressors.compose import Cached, Compose
from bigain.compressors.frequency import FrequencyFilter
from bigain.compressors.iekvd import IEKVD, LinearAlpha
from bigain.compressors.kv_merge import KVMerge
from bigain.compressors.kv_select import KVSelect
from bigain.compressors.lgtm import LGTM
from bigain.compressors.sito import SiTo
from bigain.compressors.todo import ToDo
from bigain.compressors.tokens import TokenGrid, TokenMap
from bigain.compressors.tome import ToMe

__all__ = [
    "ABM",
    "IEKVD",
    "LGTM",
    "Anchored",
    "Cached",
    "Compose",
    "Compressor",
    "FrequencyFilter",
    "KVMerge",
    "KVSelect",
    "LinearAlpha",
    "Plan",
    "SiTo",
    "ToDo",
    "ToMe",
    "TokenGrid",
    "TokenMap",
]
