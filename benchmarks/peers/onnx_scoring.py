"""The ranker's two heads as an ONNX graph: python onnx_scoring.py FOLDER REPEATS

Reads weights.npz, inputs.npz and sizes.json, writes outputs.npz, prints one JSON line. One thread.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

WARM_UP = 50
# The newest that this ONNX Runtime reads.
OPSET, IR_VERSION = 20, 10


class Graph:
    """Nodes in order; every value is a name."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []

    def __call__(self, operation: str, *inputs: str, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def taste(graph: Graph, weights, dim: int, members: int) -> str:
    """Distribution over rating levels, [1, c, levels]."""
    row, shown, valued = (
        graph("Gather", graph.constant(weights[f"table/{name}"]), "item")
        for name in ("row", "shown", "valued")
    )
    last, first = graph.constant(np.array([-1])), graph.constant(np.array([1]))
    inside, tone = graph("Unsqueeze", "in_history", last), graph("Unsqueeze", "own_tone", last)
    own = graph("Mul", inside, graph("Add", shown, graph("Mul", valued, tone)))
    count = graph("Sub", graph("Unsqueeze", "count", first), inside)
    length = graph("Sqrt", graph("Max", count, graph.constant(np.float32(1))))
    history = graph("Div", graph("Sub", graph("Unsqueeze", "sums", first), own), length)
    times = [
        graph("Gather", graph.constant(weights[f"taste/{name}"]), "time_bin")
        for name in ("user_times", "item_times")
    ]
    left = graph("Add", graph("Add", graph("Unsqueeze", "row", first), history), times[0])
    right = graph("Add", row, times[1])
    shape = graph.constant(np.array([1, -1, dim + 1, members]))
    left, right = graph("Reshape", left, shape), graph("Reshape", right, shape)
    axis, inner = graph.constant(np.array([2])), graph.constant(np.array([dim]))
    zero, end = graph.constant(np.array([0])), graph.constant(np.array([dim + 1]))
    products = graph("Mul", *(graph("Slice", one, zero, inner, axis) for one in (left, right)))
    biases = graph("Add", *(graph("Slice", one, inner, end, axis) for one in (left, right)))
    summed = graph("ReduceSum", products, axis, keepdims=1)
    utility = graph(
        "Add",
        graph("Add", summed, biases),
        graph("Reshape", "tone", graph.constant(np.array([1, 1, 1, 1]))),
    )
    cuts = graph.constant(weights["cuts"][:, None])
    below = graph("ReduceMean", graph("Sigmoid", graph("Sub", cuts, utility)), last, keepdims=0)
    none = graph("Slice", graph("Mul", below, graph.constant(np.float32(0))), zero, first, axis)
    every = graph("Add", none, graph.constant(np.float32(1)))
    upper = graph("Concat", below, every, axis=-1)
    return graph("Sub", upper, graph("Concat", none, below, axis=-1))


def engaged(graph: Graph, weights) -> str:
    """Logits, [1, c]."""

    def layer(inputs: str, name: str) -> str:
        product = graph("MatMul", inputs, graph.constant(weights[f"engaged_head/{name}/kernel"]))
        return graph("Add", product, graph.constant(weights[f"engaged_head/{name}/bias"]))

    mean, spread = graph.constant(weights["mean"]), graph.constant(weights["spread"])
    scaled = graph("Div", graph("Sub", "dense", mean), spread)
    tenth = graph("Div", graph("Abs", scaled), graph.constant(np.float32(10)))
    squashed = graph("Div", scaled, graph("Add", tenth, graph.constant(np.float32(1))))
    first = graph("Mul", squashed, graph.constant(weights["engaged_head/reads"]))
    deep = graph("Gelu", layer(graph("Gelu", layer(first, "deep_0")), "deep_1"))
    both = graph("Add", layer(first, "wide"), layer(deep, "out"))
    return graph("Squeeze", both, graph.constant(np.array([-1])))


def session(weights, inputs, dim: int, members: int) -> onnxruntime.InferenceSession:
    graph = Graph()
    outputs = {"rating": taste(graph, weights, dim, members), "engaged": engaged(graph, weights)}
    for name, value in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [value], [name]))
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32}
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "ranker",
            [helper.make_tensor_value_info(k, kinds[v.dtype], v.shape) for k, v in inputs.items()],
            [
                helper.make_tensor_value_info("rating", TensorProto.FLOAT, [1, "c", "levels"]),
                helper.make_tensor_value_info("engaged", TensorProto.FLOAT, [1, "c"]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
    )  # fmt: skip
    checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main() -> None:
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
    weights, inputs = (dict(np.load(folder / f"{name}.npz")) for name in ("weights", "inputs"))
    sizes = json.loads((folder / "sizes.json").read_text())
    start = time.perf_counter()
    asked = session(weights, inputs, sizes["dim"], sizes["members"])
    ready_s = time.perf_counter() - start
    taken = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        rating, logits = asked.run(["rating", "engaged"], inputs)
        taken.append(time.perf_counter() - start)
    np.savez(folder / "outputs.npz", rating=rating, engaged=logits)
    print(json.dumps({"taken_s": taken[WARM_UP:], "ready_s": ready_s}))


if __name__ == "__main__":
    main()
