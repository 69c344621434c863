"""One of two processes that distil together; the first prints the losses."""

import json
import os

import torch
from conftest import make_images, make_model
from test_apply import make_plan

import sparsight
from sparsight.stages.distil import distil

model = make_model("augreg")
pictures = list(make_images(model, batch=4))
settings = sparsight.Distillation(steps=6, learning_rate=3e-4, batch=1)
losses = distil(model, make_plan(model, "exact"), pictures, settings)[1]
if os.environ["RANK"] == "0":
    print(json.dumps(losses))

if torch.distributed.is_initialized():  # its threads would abort a process that ends before them
    torch.distributed.destroy_process_group()
