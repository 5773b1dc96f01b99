"""Modules with the faces of other libraries, so that their programs run by changing one import.

They translate and own no engine: what runs is a flow. Each module's page under `docs/migration` shows
the program beside the one that would be written for flowstage.
"""
