"""Devices that their vendors describe: the Container Device Interface (CDI).

Files of the machine's administrator say what a container needs to use a device; engine and builder ask here for a
device by its name and get what is to be added to a container's configuration.  Nothing is done to a container here.
"""
