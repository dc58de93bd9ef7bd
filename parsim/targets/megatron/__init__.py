"""What Megatron Core is told, by the names of Megatron-LM's flags with underscores; Megatron-Bridge renames them.

Source: NVIDIA/Megatron-LM, tag core_v0.16.1 and d98e8a64 (0.20.0): megatron/training/arguments.py, megatron/core/transformer/
transformer_config.py, megatron/core/model_parallel_config.py, megatron/core/distributed/distributed_data_parallel_config.py.
"""
