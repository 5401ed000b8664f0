#!/usr/bin/env python3
"""OpenVINO baseline: passes of peer_pytorch.py, compiled for this CPU with static shapes, timed on this machine.

  peer_openvino.py --what ar,step,vae --dtype f32|bf16|int8 --preset base --batch 1 [--threads N] [--models FOLDER]

Needs peer_pytorch.py beside this file, and `pip install torch openvino nncf`. Each model is converted in a process of its
own, so that the peak memory of this one is OpenVINO's without PyTorch's. --models keeps the converted models, and later
runs with the same sizes read them.

  step    has the conditioning's keys and values as inputs, like `strong`
  int8    NNCF quantises weights per output channel, and activations after calibration with random inputs (time depends on
          shapes, not on values); everything else runs in bf16
  files   weights are f32 for f32, otherwise f16 (or int8), as OpenVINO writes them by default

Prints one JSON line per measurement with the keys of peer_pytorch.py, and the relative error (L2) against PyTorch in f32.
"""
import argparse, json, multiprocessing, os, pathlib, resource, sys, tempfile, time, warnings
import numpy as np, openvino as ov

PRECISION = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.bf16}
PASSES = ("ar", "step", "vae")


def workload(options, what):
    """The PyTorch module of a pass, and its inputs."""
    import torch
    import peer_pytorch as peer

    class Ar(torch.nn.Module):
        def __init__(self, model):
            super().__init__(); self.model = model

        def forward(self, classes):
            return self.model.features(classes)

    class Step(torch.nn.Module):
        def __init__(self, net):
            super().__init__(); self.net = net

        def forward(self, x, keys, values, temb, mod):
            return self.net.run(x, list(zip(keys.unbind(0), values.unbind(0))), temb, mod)

    torch.manual_seed(0)
    if what == "vae":
        side = options.res // 16
        return peer.VaeDecoder().eval(), (torch.randn(options.batch, 16, side, side),)
    d, encoder_blocks, decoder_blocks, heads = peer.PRESETS[options.preset]
    tokens, sequences = 256 * (options.res // 256) ** 2, 2 * options.batch
    model = peer.TransDiff(d, encoder_blocks, decoder_blocks, heads, seq_d=tokens, drop=0.0).eval()
    classes, net = torch.randn(sequences, d), model.diffdecoder["net"]
    if what == "ar":
        return Ar(model), (classes,)
    keys, values = (torch.stack(all) for all in zip(*net.condition(model.features(classes))))
    return Step(net), (torch.randn(sequences, tokens, 16), keys, values, *net.time_embed(torch.tensor([500.0])))


def convert(options, what, path):
    """Writes the model of a pass, its inputs and PyTorch's output to files that begin with `path`."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # NNCF draws progress bars, but standard output is for JSON
    warnings.simplefilter("ignore")
    import torch

    with torch.no_grad():
        module, inputs = workload(options, what)
        expected = module(*inputs).numpy()
        model = ov.convert_model(module, example_input=inputs)
    for port, x in zip(model.inputs, inputs):
        port.get_node().set_partial_shape(ov.PartialShape(list(x.shape)))
    model.validate_nodes_and_infer_types()
    inputs = [x.numpy() for x in inputs]
    if options.dtype == "int8":
        import nncf

        samples = [tuple(inputs)] * 2
        model = nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples))
    ov.save_model(model, f"{path}.xml", compress_to_fp16=options.dtype != "f32")
    # Last, because its presence means that the model is whole.
    np.savez(f"{path}.npz", *inputs, expected=expected)


def measure(options, what, folder):
    path = folder / f"{what}-{options.preset}-{options.dtype}-{options.res}-{options.batch}"
    if not pathlib.Path(f"{path}.npz").exists():
        converter = multiprocessing.get_context("spawn").Process(target=convert, args=(options, what, path))
        converter.start(); converter.join()
        if converter.exitcode != 0:
            raise SystemExit(f"--what {what}: the model could not be converted")
    config = {"INFERENCE_PRECISION_HINT": PRECISION[options.dtype], "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if options.threads:
        config["INFERENCE_NUM_THREADS"] = options.threads
    with np.load(f"{path}.npz") as arrays:
        expected, inputs = arrays["expected"], [arrays[f"arr_{k}"] for k in range(len(arrays.files) - 1)]
    request = ov.Core().compile_model(f"{path}.xml", "CPU", config).create_infer_request()
    found = request.infer(inputs)[0]  # the warm-up run
    seconds = []
    for _ in range(max(1, options.repeat)):
        begin = time.perf_counter(); request.infer(inputs); seconds.append(time.perf_counter() - begin)
    seconds.sort()
    return {"median_s": seconds[len(seconds) // 2], "min_s": seconds[0],
            "relative_error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--what", default=",".join(PASSES)); parser.add_argument("--dtype", choices=PRECISION, default="f32")
    parser.add_argument("--preset", default="base"); parser.add_argument("--res", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1, help="images per pass; with guidance, twice as many sequences")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs after a warm-up run")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the number to OpenVINO")
    parser.add_argument("--models", type=pathlib.Path, help="folder of converted models")
    options = parser.parse_args()
    options.what = options.what.split(",")
    if unknown := set(options.what) - set(PASSES):
        parser.error(f"--what: expected {', '.join(PASSES)}, got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.models or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for what in options.what:
            line = {"impl": "openvino", "what": what, "device": "cpu", "preset": options.preset, "dtype": options.dtype,
                    "res": options.res, "batch": options.batch, **measure(options, what, folder), "version": ov.__version__}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
