#!/bin/bash
# The rows that need a GPU, in parts that each end by themselves: `tests graphs head` take at most 10 minutes, `speed
# studies` at most 13 (a session of 15 minutes runs one of the two).
#
#   benchmarks/gpu.sh OUT [tests] [graphs] [head] [speed] [studies]      (default: all, in this order)
#
# OUT gets text and the JSON files that `python -m benchmarks` reads once they are copied beside this script.
# GLUE is GLUE's folder of data (default shared/glue), MODEL a backbone's folder (default: BERT-base with random
# weights, made in OUT/bert; speed does not depend on them) and NAME its part of the files' names (_mpnet, ...).
set -u
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT [PART...]}
shift
parts=${*:-tests graphs head speed studies}
glue=${GLUE:-shared/glue}
model=${MODEL:-$out/bert}
name=${NAME:-}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python -c 'import torch, transformers as t; print(torch.cuda.get_device_name(), torch.__version__, t.__version__)' \
    | tee "$out/machine.txt" || exit 1
if [ -n "${MODEL:-}" ]; then
    [ -e "$model/config.json" ] || { echo "MODEL=$model: no folder of a model" >&2; exit 2; }
elif [ ! -e "$model" ]; then
    python -m benchmarks._random_bert "$model" "$glue" || exit 1
fi

part() { # part NAME SECONDS COMMAND...: its output and whether it ended
    local part=$1 limit=$2
    shift 2
    local begin=$SECONDS
    timeout -s INT -k 20 "$limit" "$@" >"$out/$part.txt" 2>&1
    echo "$part: exit code $? after $((SECONDS - begin)) s" | tee -a "$out/parts.txt"
}

for each in $parts; do
    case $each in
    tests) part tests 150 python -m pytest -q tests/training/speed/test_cuda_graphs.py tests/training/speed/test_host_copies.py -k "not every_family" ;;
    graphs) part graphs 200 python -m pytest -q -rP tests/training/speed/test_cuda_graphs.py -k every_family
        python -m benchmarks graphs "$out/graphs.txt" --output "$out/graphs_gpu.json" ;;
    head) # (the shares compile the heads, for which torch builds C++ first: minutes on some machines)
        part head 90 python -m benchmarks head --device cuda --parts over_stock --output "$out/head_gpu.json"
        part head-share 150 python -m benchmarks head --device cuda --parts share --output "$out/head_share.json"
        ;;
    speed)
        # (a round of CoLA takes 55 s on an H200, 34 of them in Trainer, and preparing the sides a minute)
        part speed-cola 320 python -m benchmarks speed --model_name_or_path "$model" --data_dir "$glue" \
            --tasks cola --updates 250 --rounds 3 --parts training heads --output "$out/speed_gpu${name}_cola.json"
        part speed-rte 200 python -m benchmarks speed --model_name_or_path "$model" --data_dir "$glue" \
            --tasks rte --updates 32 --epochs 2 --rounds 3 --parts training --output "$out/speed_gpu${name}_rte.json"
        ;;
    studies)
        part studies 200 python -m benchmarks study --model_name_or_path "$model" --data_dir "$glue" \
            --tasks cola --cells 2 --runs 16 --output "$out/study_gpu.json"
        ;;
    *) echo "no part $each" >&2 && exit 2 ;;
    esac
done
