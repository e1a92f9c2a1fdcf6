"A Keras network in PyTorch: the same weights, layer by layer, in PyTorch's own operations."
import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def same(size, kernel, stride):
    "Keras' padding 'same' for one side: what goes before and after."
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


class Convolution(nn.Module):
    "Conv2D, padded as Keras pads."

    def __init__(self, layer):
        super().__init__()
        kernel, *bias = layer.get_weights()
        self.weight = nn.Parameter(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
        self.bias = nn.Parameter(torch.from_numpy(bias[0])) if bias else None
        self.padding, self.strides = layer.padding, layer.strides

    def forward(self, x):
        if self.padding == "same":
            (top, bottom), (left, right) = (same(x.shape[i], self.weight.shape[i], self.strides[i - 2]) for i in (2, 3))
            x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.strides)


class Function(nn.Module):
    "A step without weights."

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


def normalisation(layer):
    module = nn.BatchNorm2d(layer.moving_mean.shape[0], eps=layer.epsilon)
    state = dict(zip(("weight", "bias", "running_mean", "running_var"), map(torch.from_numpy, layer.get_weights()), strict=True))
    module.load_state_dict(state, strict=False)
    return module


def linear(layer):
    kernel, bias = layer.get_weights()
    module = nn.Linear(*kernel.shape)
    module.load_state_dict({"weight": torch.from_numpy(kernel.T.copy()), "bias": torch.from_numpy(bias)})
    return module


def scaling(layer):
    mean, deviation = (torch.from_numpy(np.array(x, "float32").reshape(1, -1, 1, 1)) for x in (layer.mean, np.sqrt(layer.variance)))
    return Function(lambda x: (x - mean) / deviation)


def average_pool(layer):
    return Function(lambda x: F.avg_pool2d(x, layer.pool_size, layer.strides))


def maximum_pool(layer):
    return Function(lambda x: F.max_pool2d(x, layer.pool_size, layer.strides))


def zero_padding(layer):
    (top, bottom), (left, right) = layer.padding
    return Function(lambda x: F.pad(x, (left, right, top, bottom)))


MODULES = {
    "Conv2D": Convolution,
    "BatchNormalization": normalisation,
    "Dense": linear,
    "Normalization": scaling,
    "Rescaling": lambda layer: Function(lambda x: x * layer.scale + layer.offset),
    "ReLU": lambda layer: nn.ReLU(),
    "Activation": lambda layer: {"relu": nn.ReLU}[layer.activation.__name__](),
    "Add": lambda layer: Function(lambda *x: sum(x)),
    "Concatenate": lambda layer: Function(lambda *x: torch.cat(x, 1)),
    "ZeroPadding2D": zero_padding,
    "AveragePooling2D": average_pool,
    "MaxPooling2D": maximum_pool,
    "GlobalAveragePooling2D": lambda layer: Function(lambda x: x.mean((2, 3))),
    "Dropout": lambda layer: nn.Identity(),
}


class Carried(nn.Module):
    "The graph of a functional Keras model, its layers in PyTorch; photos are (n, 3, h, w), 0..255."

    def __init__(self, model):
        super().__init__()
        self.steps, self.parts = [], nn.ModuleDict()
        for node in (node for level in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[level]):
            layer = node.operation
            if isinstance(layer, keras.layers.InputLayer):
                self.first = id(node.outputs[0])
                continue
            self.parts[layer.name] = MODULES[type(layer).__name__](layer)
            self.steps.append((layer.name, [id(x) for x in node.input_tensors], id(node.outputs[0])))
        self.eval()

    def part(self, name):
        return self.parts[name]

    def forward(self, photos):
        values = {self.first: photos}
        for name, inputs, output in self.steps:
            values[output] = self.parts[name](*(values[i] for i in inputs))
        return values[output]


def carry_over(model):
    "The network in PyTorch, checked on noise."
    carried, noise = Carried(model), np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    with torch.no_grad():
        found = carried(torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())).numpy()
    expected = model.predict_on_batch(noise)
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise ValueError(f"The network in PyTorch answers {found[0]}, in Keras {expected[0]}.")
    return carried
