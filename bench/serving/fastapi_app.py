"""The seed's service as its users would write it: FastAPI, pydantic and onnxruntime with one thread."""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Window(BaseModel):
    sequence: list[list[float]]


class Windows(BaseModel):
    instances: list[list[list[float]]]


@app.get("/readyz")
async def ready():
    return {"status": "ready"}


@app.post("/predict")
async def predict(body: Window):
    out = session.run(None, {"input": np.asarray([body.sequence], dtype=np.float32)})[0]
    return {"rul": float(out.reshape(-1)[0]), "model_version": "1", "is_stub": False}


@app.post("/batch")
async def batch(body: Windows):
    out = session.run(None, {"input": np.asarray(body.instances, dtype=np.float32)})[0]
    return {"predictions": out.reshape(-1).tolist(), "model_version": "1"}
