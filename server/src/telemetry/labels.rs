//! Labels that are the server's own: each a closed set.

/// Declares a closed set of a label's values.
macro_rules! label {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub(super) const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// As it is in the page.
            pub(super) const fn label(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

label! {
    /// Where a conversation's room came from.
    StartSource {
        /// From the pool.
        Warm = "warm",
        /// Made for it.
        Cold = "cold",
    }
}

label! {
    /// How a run ended.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    RunOutcome {
        /// By the driver's own word, well.
        Success = "success",
        /// Otherwise.
        Error = "error",
        /// Its time was up.
        Timeout = "timeout",
        /// Somebody wanted it.
        Cancelled = "cancelled",
    }
}

label! {
    /// Which way files go between a room and object storage.
    SyncDirection {
        /// Into the room.
        In = "in",
        /// Out of it.
        Out = "out",
    }
}
