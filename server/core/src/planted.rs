//! Bugs to plant, so that a test can show that the simulator finds them.

weft_wire::bugs_to_plant! {
    /// Somebody writes a file alone while others may read it from their caches.
    WriteBesideReaders,
    /// What a session has to write is its own, whoever took the file while it was away.
    ReclaimAnything,
    /// What the volume has of fences is not heeded after a start.
    LetLateIn,
}
