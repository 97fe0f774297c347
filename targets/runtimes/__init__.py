"""The runtimes of a device behind one interface: what generates tokens there, and how it is used.

`interface.py` says what a runtime does: it checks a device, starts there, answers prompts of token
ids, and is stopped. `onnx.py` and `tensorrt.py` run the bundle's own program over the line
protocol; `llama_cpp.py` starts `llama-server` and speaks HTTP to it through the SSH connection.
Nothing stays on the device when a connection breaks: all of them are, or are children of, a program
that ends with its standard input.

`device_backend.py` makes a running one look like every other model that tasks are scored with.
"""
