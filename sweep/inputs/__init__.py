"""Inputs fetched once per machine: dataset releases and pretrained weights."""
