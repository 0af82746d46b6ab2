//! The closed lists of words that options take, each as it is written in a file.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::config::LogFormat;
use crate::framing::BadFrame;
use crate::net::{Overflow, ProxyVersion};
use crate::relay::{JoinOn, RelayMode, Reply, Strategy};

/// `1 client has`, `2 clients have`.
pub(super) fn clients_have(clients: u64) -> String {
    if clients == 1 { "1 client has".into() } else { format!("{clients} clients have") }
}

macro_rules! words {
    ($($list:ty),+) => {
        $(impl ValueEnum for $list {
            fn value_variants<'a>() -> &'a [Self] {
                &Self::ALL
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(PossibleValue::new(self.name()))
            }
        })+
    };
}

words!(RelayMode, Strategy, JoinOn, Reply, BadFrame, Overflow, ProxyVersion, LogFormat);
