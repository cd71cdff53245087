#!/usr/bin/env bash
# From simulated slides to a report on two models, in three commands; about 20 minutes on two cores.
#
#     bash examples/slides_to_report.sh work
#
# The results are work/trained/models.csv and the pictures in work/trained/crossfusion.
set -euo pipefail
work=$1
patients=${2:-100}
slide_size=${3:-2048}
here=$(dirname "$0")

# Slides whose prognosis is planted in tissue architecture (5x) and nuclei (20x), with a follow-up table.
tiacf simulate --slides --scenario sum --patients "$patients" --slide-size "$slide_size" --output-path "$work"

# Bags of features, one per slide.
tiacf extract --img-input "$work/slides" --encoder stain-texture --output-path "$work/bags"

# Two models on the same five folds by patient, and their figures.
tiacf train --bags "$work/bags" --table "$work/cohort.csv" --time-unit months \
  --model crossfusion --model mean-pool --config "$here/small.yaml" --output-path "$work/trained"
