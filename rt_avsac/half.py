"""The deployed network in half precision with explicit types in its graph, for strongly typed builders and GPUs."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rt_avsac.model.avsac import Deployed
from rt_avsac.model.log_mel import LogMel
from rt_avsac.quantize import InputQdq


class InFloat(nn.Module):
    """Keeps a part in fp32: the squares of a quiet spectrum vanish in fp16, and strong typing mixes no norm."""

    def __init__(self, part: nn.Module, device: str) -> None:
        super().__init__()
        self.part, self.device = part, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, enabled=False):
            return self.part(x.float())


class RoundedFrom(nn.Module):
    """What enters an int8 layer, in half precision before it is rounded: builders want both factors' scales alike."""

    def __init__(self, part: InputQdq, dtype: torch.dtype) -> None:
        super().__init__()
        self.part, self.dtype = part, dtype
        part.scale = part.scale.clamp(min=torch.finfo(dtype).smallest_normal)  # builders refuse a scale of nothing
        if part.smooth is not None:
            part.smooth = part.smooth.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = self.part(x.to(self.dtype))
        return rounded


class Half(nn.Module):
    """`Deployed` under autocast, log-mel and norms in fp32; outputs float32 like those of every backend. Changes it."""

    def __init__(self, deployed: Deployed, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.deployed, self.dtype, self.device = deployed, dtype, device
        for parent in list(deployed.net.modules()):
            for name, part in list(parent.named_children()):
                if isinstance(part, (LogMel, nn.LayerNorm)):
                    setattr(parent, name, InFloat(part, device))
                elif isinstance(part, InputQdq):
                    setattr(parent, name, RoundedFrom(part, dtype))
                elif isinstance(part, (nn.Conv2d, nn.Linear)) and not parametrize.is_parametrized(part):
                    part.to(dtype)  # else autocast writes a cast of each weight into the graph, to be run every time
        deployed.stretch4, deployed.stretch2 = deployed.stretch4.to(dtype), deployed.stretch2.to(dtype)

    def forward(self, image: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self.device, dtype=self.dtype):
            outputs = self.deployed(image, audio)
        return tuple(output.float() for output in outputs)


def spelled_out(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program without autocast, with a cast wherever an operator would promote an input to another's type.

    torch 2.11 cannot write such operators to ONNX, later versions can.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program.run_decompositions({})
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        kind = _float_type(node)
        if node.op != "call_function" or kind is None:
            continue
        inputs = [each for each in node.all_input_nodes if _float_type(each) is not None]
        if len({_float_type(each) for each in inputs}) > 1:
            for each in inputs:
                if _float_type(each) != kind:
                    with graph.inserting_before(node):
                        cast = graph.call_function(torch.ops.aten._to_copy.default, (each,), {"dtype": kind})
                    cast.meta = {"val": each.meta["val"].to(kind)}
                    node.replace_input_with(each, cast)
    program.graph_module.recompile()
    return program


def _float_type(node: torch.fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, Tensor) and value.is_floating_point() else None
