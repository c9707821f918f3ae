//! Sessions, credits, deadlines and replay as a core without I/O; TCP framing.
