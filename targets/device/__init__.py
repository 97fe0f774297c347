"""What runs on the device: plain Python with numpy and onnxruntime, and no edgewright."""
