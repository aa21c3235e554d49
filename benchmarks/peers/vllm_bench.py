"""vLLM's `bench serve` without the rest of vLLM's command line: arguments in, report out."""

import argparse

from vllm.benchmarks.serve import add_cli_args, main

parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
