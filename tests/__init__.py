"""Tests of fpemu and lamp."""
