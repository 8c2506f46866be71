"""Florence-2 and SAM2 checkpoints → ONNX graphs, manifests and configs of a model repository, checked on the way.

    run                     the command's work from start to end
    ├── checkpoints         folder or file → model in float32 (weights, image_config, generation_config)
    ├── sam2_original*      Meta's own .pt files → the same SAM2 model
    ├── florence2, sam2     the graphs of each model, declared as data (graphs)
    ├── precision           float16 weights and arithmetic
    ├── eight_bits          8-bit weights, for the text decoder
    ├── *_facts             what else a checkpoint decides, for the manifest
    ├── *_checks, checks    what transformers computes, beside what the graphs do
    ├── tensorrt*           plans of TensorRT, and what it does not take
    ├── configs             sizes in Triton's config files
    └── repository          the folder, staged and put in place

The small models in the packaged repository are made from the source tree's folder with

    florence2-sam2 export --florence2 models/small/florence2 --sam2 models/small/sam2 --output model_repository
"""
