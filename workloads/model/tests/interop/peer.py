"""Reads FOLDER/input.f32 and FOLDER/model.onnx; checks the file with onnx.checker, predicts with
onnxruntime, writes FOLDER/output.f32. Also writes FOLDER/foreign.onnx, a graph of another form, and
onnxruntime's answers to it, FOLDER/foreign.f32. Prints the versions."""

import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def run(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0].astype(np.float32)


def gru(path, window, features, hidden=8):
    rng = np.random.default_rng(1)

    def tensor(name, *shape, size=0.3):
        values = rng.normal(0, size, shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(
            "GRU", ["t", "w", "r", "b"], ["", "h"], hidden_size=hidden, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["h", "axis"], ["s"]),
        helper.make_node("MatMul", ["s", "head"], ["y"]),
    ]
    stored = [
        tensor("w", 1, 3 * hidden, features, size=0.003),
        tensor("r", 1, 3 * hidden, hidden),
        tensor("b", 1, 6 * hidden),
        tensor("head", hidden, 1, size=3),
        numpy_helper.from_array(np.array([0], dtype=np.int64), "axis"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "gru",
        [value("x", TensorProto.FLOAT, ["n", window, features])],
        [value("y", TensorProto.FLOAT, ["n", 1])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def main():
    folder = sys.argv[1]
    path = f"{folder}/model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [p.key for p in model.metadata_props] == ["rul.name", "rul.version", "rul.features"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    window, features = shape[1].dim_value, shape[2].dim_value
    x = np.fromfile(f"{folder}/input.f32", dtype="<f4").reshape(-1, window, features)
    run(path, x).tofile(f"{folder}/output.f32")
    gru(f"{folder}/foreign.onnx", window, features)
    run(f"{folder}/foreign.onnx", x).tofile(f"{folder}/foreign.f32")
    print(f"onnx {onnx.__version__}, onnxruntime {ort.__version__}")


if __name__ == "__main__":
    main()
