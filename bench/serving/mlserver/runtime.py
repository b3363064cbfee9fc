"""onnxruntime with one thread behind MLServer's V2 protocol."""

import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        windows = NumpyCodec.decode_input(payload.inputs[0])
        out = self.session.run(None, {"input": windows.astype("float32", copy=False)})[0]
        output = NumpyCodec.encode_output("output", out.reshape(-1))
        return InferenceResponse(model_name=self.name, outputs=[output])
