#!/bin/bash
# qsub -t 1-8 gridengine.sh: eight workers. -notify sends SIGUSR2 a minute before a job is killed.
#$ -N epsweep
#$ -S /bin/bash
#$ -cwd
#$ -V
#$ -notify
#$ -l h_rt=24:00:00
#$ -r y
export PATH="${SGE_O_PATH:-$PATH}" # -V does not pass on PATH
export EPSWEEP_ROOT="${EPSWEEP_ROOT:-$HOME/sweeps/outputs}"
exec sweep work "${GRID:-my_question.yaml}" --idle 300
