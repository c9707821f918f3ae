//! Bugs to plant, so that a test can show that the simulator finds them.

weft_wire::bugs_to_plant! {
    /// A recall is answered before what was written is at the servers.
    ReturnEarly,
    /// What was acknowledged is written again after a restart, though others may have written there since.
    KeepBeyondLease,
    /// Data that was in the inode counts at its target before it is durable there.
    MoveUnsynced,
    /// What is at the targets of a file that was made here is never said to be there.
    BeginUntold,
    /// An fsync does not wait for what a close need not wait for.
    SyncAhead,
}
