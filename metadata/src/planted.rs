//! Bugs to plant, so that a test can show that the simulator finds them.

weft_wire::bugs_to_plant! {
    /// Changes are applied and answered before their batch is on the log.
    AckBeforeLog,
    /// A batch that is durable is taken to mean that those before it are, too.
    AckOutOfOrder,
    /// A batch says of those before it that they are durable when they are on their way.
    ClaimDurable,
    /// The log begins anew before the checkpoint is committed.
    CutLogEarly,
    /// The log begins anew once more while a checkpoint is written: over what the database on the disk still needs.
    CutLogTwice,
    /// A rename leaves one of its rows out.
    HalfRename,
    /// A change that comes again is done again.
    ForgetReplays,
    /// Works that a crash left over are not taken up.
    DropWorks,
    /// A change is refused though the log write that failed may have left it there.
    RefuseUnsure,
    /// Damage in the midst of the log is taken for its end.
    EndAtDamage,
}
