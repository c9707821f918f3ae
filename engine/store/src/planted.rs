//! Bugs to plant, so that a test can show that the simulator finds them.

weft_wire::bugs_to_plant! {
    /// A sync is acknowledged without a flush.
    SkipFlush,
    /// Blocks read are not compared with their checksums.
    SkipReadSum,
    /// Blocks are given out before the record that frees them is durable.
    FreeEarly,
    /// A write is acknowledged before its record is appended.
    AckEarly,
    /// Blocks are overwritten in place without an intent.
    SkipIntent,
    /// Blocks in doubt are overwritten in place.
    OverwriteRecent,
    /// A block in use is free, too.
    GiveTwice,
    /// A freed block stays in use.
    LeakBlock,
    /// Replay takes records whose checksum is wrong.
    SkipRecordSum,
    /// Recovery falls back to places that were given to somebody else.
    SettleAnywhere,
    /// Recovery falls back from what the device does not give, and a sync promised, to what was there before.
    SettleUnread,
    /// Recovery calls zeros that did not arrive lost.
    LoseZeros,
    /// Recovery takes "never written" for a block that a sync promised.
    SettleToNothing,
    /// Recovery commits before it flushes.
    SkipRecoverFlush,
    /// A checkpoint is committed before its flush.
    CommitEarly,
    /// The journal goes on where a checkpoint is needed whose commit is being written.
    CutJournalEarly,
    /// A checkpoint is without a record that changes before its turn.
    PutLate,
    /// Records leave memory while the commit with them is being written.
    LetGoEarly,
    /// A removal takes an index that cannot be read for the end of the file.
    EndEarly,
    /// A chunk whose record cannot be read was never written.
    ForgetRecord,
    /// A checkpoint forgets the intents of overwrites that are under way.
    ForgetIntents,
    /// A mark is made before its append can leave, so that records come behind it.
    MarkEarly,
    /// Open believes that nothing was lost, whatever the boot.
    TrustEveryBoot,
    /// A flush failed, and the next open is not told.
    KeepBoot,
    /// What a failed flush lost is told to nobody.
    HideLoss,
    /// Open does not ask whether the last flush ended well.
    IgnoreNote,
}

/// Whether bugs can be planted in this build.
pub const POSSIBLE: bool = cfg!(feature = "planted");
