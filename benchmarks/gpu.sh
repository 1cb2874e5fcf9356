#!/bin/bash
# The rows that need a GPU, in parts that each end by themselves: made for a session of 15 minutes.
#
#   benchmarks/gpu.sh OUT [tests] [graphs] [head] [speed] [studies]      (default: all, in this order)
#
# OUT gets one JSON or text file per part. GLUE is GLUE's folder of data (default shared/glue), MODEL a
# backbone's folder (default: BERT-base with random weights, made in OUT/bert; speed does not depend on them).
set -u
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT [PART...]}
shift
parts=${*:-tests graphs head speed studies}
glue=${GLUE:-shared/glue}
model=${MODEL:-$out/bert}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python -c 'import torch, transformers as t; print(torch.cuda.get_device_name(), torch.__version__, t.__version__)' \
    | tee "$out/machine.txt" || exit 1
[ -e "$model" ] || python -m benchmarks._random_bert "$model" "$glue" || exit 1

part() { # part NAME SECONDS COMMAND...: its output and whether it ended
    local name=$1 limit=$2
    shift 2
    local begin=$SECONDS
    timeout -s INT -k 20 "$limit" "$@" >"$out/$name.txt" 2>&1
    echo "$name: exit code $? after $((SECONDS - begin)) s" | tee -a "$out/parts.txt"
}

for name in $parts; do
    case $name in
    tests) part tests 150 python -m pytest -q tests/training/speed/test_cuda_graphs.py -k "not every_family" ;;
    graphs) part graphs 200 python -m pytest -q -rP tests/training/speed/test_cuda_graphs.py -k every_family ;;
    head) part head 90 python -m benchmarks head --device cuda --output "$out/head.json" ;;
    speed)
        part speed-cola 180 python -m benchmarks speed --model_name_or_path "$model" --data_dir "$glue" \
            --tasks cola --updates 250 --rounds 3 --parts training heads --output "$out/speed-cola.json"
        part speed-rte 120 python -m benchmarks speed --model_name_or_path "$model" --data_dir "$glue" \
            --tasks rte --updates 32 --epochs 2 --rounds 3 --parts training --output "$out/speed-rte.json"
        ;;
    studies)
        # Eight runs of one epoch, eight at once; runs per minute are 8 over the minutes of the line.
        part studies 150 python -m sot_nlp.cli compare --tasks cola --models "bert=$model" --heads stock text \
            --seeds 4 --data_dir "$glue" --num_train_epochs 1 --jobs 8 --output_dir "$out/study"
        ;;
    *) echo "no part $name" >&2 && exit 2 ;;
    esac
done
