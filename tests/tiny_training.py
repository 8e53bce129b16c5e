"""The training loop of the package on the images of a task, in the built-in cases' setting."""

from torch import nn

from peft_regress.catalogue.built_in import cosine_to_zero
from peft_regress.measure.data import Data, tensor_items
from peft_regress.measure.objective import Objective
from peft_regress.measure.training import Loop, single_thread
from peft_regress.measure.training import finetune as train_by_loop


def data_of(images):
    return Data(
        train=tensor_items((images.train_images, images.train_labels)),
        test=tensor_items((images.test_images, images.test_labels)),
    )


def finetune(model, optimizer, images, *, steps=22, batch_size=32, seed, set_mode=nn.Module.eval):
    loop = Loop(
        steps=steps, loss=Objective().loss, set_mode=set_mode, schedule=cosine_to_zero(steps)
    )
    batches = data_of(images).training_batches(batch_size, seed=seed)
    return train_by_loop(model, optimizer, batches, loop, seed=seed)


@single_thread()
def evaluate(model, images, labels):
    batches = list(zip(images.split(200), labels.split(200), strict=True))
    scores = Objective().scores(model, batches)
    return scores["accuracy"], scores["loss"]
