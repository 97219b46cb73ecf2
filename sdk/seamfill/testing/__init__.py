"""What users test their own parts with: behavioural suites that our own parts pass.

Import from the modules; this package imports nothing, so that pytest is needed only by whoever
uses a suite.
"""
