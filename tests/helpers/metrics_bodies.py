"""Bodies of /metrics answers as servers write them."""

from __future__ import annotations

TRITON = b"""\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="simulated",version="1"} 12
nv_inference_request_success{model="other",version="1"} 99
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.25
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{model="simulated",version="1"} 0.5
vllm:time_to_first_token_seconds_bucket{model="simulated",version="1",le="+Inf"} 1
vllm:time_to_first_token_seconds_count{model="simulated",version="1"} 1
"""
