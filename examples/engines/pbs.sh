#!/bin/bash
# qsub -J 1-8 pbs.sh: eight workers (OpenPBS, PBS Professional; with Torque, -t 1-8).
#PBS -N epsweep
#PBS -l select=1:ncpus=8:ngpus=1:mem=32gb
#PBS -l walltime=24:00:00
#PBS -r y
#PBS -V
cd "$PBS_O_WORKDIR" || exit 2
export EPSWEEP_ROOT="${EPSWEEP_ROOT:-$HOME/sweeps/outputs}"
exec sweep work "${GRID:-my_question.yaml}" --idle 300 # gets SIGTERM from PBS, then kill_delay
