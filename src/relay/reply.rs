//! [`Reply`]: where the answers of the one target of many clients go. This is
//! the one closed list of ways; each has its code in a file of its own.

/// Who gets what the target of mode collect says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// Every client, whoever asked.
    #[default]
    Broadcast,
    /// The client whose name stands before the answer.
    Tagged,
    /// The client whose request it answers: they take turns.
    Request,
}

impl Reply {
    /// Every way there is.
    pub const ALL: [Self; 3] = [Self::Broadcast, Self::Tagged, Self::Request];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Tagged => "tagged",
            Self::Request => "request",
        }
    }
}
