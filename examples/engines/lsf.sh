#!/bin/bash
# bsub < lsf.sh: eight workers.
#BSUB -J epsweep[1-8]
#BSUB -n 8
#BSUB -R "span[hosts=1] rusage[mem=32GB]"
#BSUB -gpu num=1
#BSUB -W 24:00
#BSUB -wt 2
#BSUB -wa TERM
#BSUB -r
export EPSWEEP_ROOT="${EPSWEEP_ROOT:-$HOME/sweeps/outputs}"
exec sweep work "${GRID:-my_question.yaml}" --idle 300
