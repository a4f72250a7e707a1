//! Types of messages that are known and mean nothing to a conversation. Whatever is not among them is counted.

/// Messages, by their `type`.
pub(super) const MESSAGES: [&str; 5] =
    ["rate_limit_event", "tool_progress", "tool_use_summary", "auth_status", "keep_alive"];

/// Messages of the type `system`, by their `subtype`: all that the image's CLI can print, but for those that [`super::mapping`] reads.
const SYSTEM: [&str; 68] = [
    "agents_killed",
    "api_error",
    "away_summary",
    "background_tasks_changed",
    "cloud_session_delta",
    "code_change_published",
    "commands_changed",
    "control_request_progress",
    "dev_intent",
    "elicitation_complete",
    "feedback_draft_queued",
    "file_attachments_missing",
    "file_snapshot",
    "files_persisted",
    "hook_progress",
    "hook_response",
    "hook_started",
    "informational",
    "inherited_asks_settled",
    "instruction_size_warning",
    "late_allow_not_run",
    "local_command_output",
    "memory_recall",
    "memory_saved",
    "mirror_error",
    "model_consent_fallback",
    "model_refusal_fallback",
    "model_refusal_no_fallback",
    "notification",
    "peer_message_hold",
    "per_turn_effort_changed",
    "permission_check_status",
    "permission_denied",
    "permission_retry",
    "plugin_install",
    "post_turn_summary",
    "scheduled_task_fire",
    "session_metadata",
    "session_state_changed",
    "session_title_changed",
    "session_writes_lost",
    "shell_cwd",
    "status",
    "stop_hook_summary",
    "task_list_statuses",
    "task_notification",
    "task_progress",
    "task_started",
    "task_summary",
    "task_updated",
    "thinking",
    "thinking_tokens",
    "turn_duration",
    "turn_handoff_available",
    "turn_preempted",
    "ui_focus",
    "ui_invalidate",
    "ui_log",
    "ui_notify",
    "ui_notify_cancel",
    "ui_panes",
    "ui_placed",
    "ui_scroll",
    "ui_status",
    "ui_toast",
    "upgrade_relay_marker",
    "vcs_state_changed",
    "worker_shutting_down",
];

/// Whether a message of this type is known.
pub(super) fn is_message(kind: &str) -> bool {
    MESSAGES.contains(&kind)
}

/// Whether a `system` message of this subtype is known.
pub(super) fn is_system(subtype: &str) -> bool {
    SYSTEM.binary_search(&subtype).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtypes_are_sorted_so_that_each_is_found() {
        assert!(SYSTEM.is_sorted());
        assert!(SYSTEM.iter().all(|subtype| is_system(subtype)));
        assert!(!is_system("") && !is_system("of_the_future"));
    }
}
