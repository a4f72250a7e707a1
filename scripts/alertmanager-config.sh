#!/usr/bin/env bash
# Writes Alertmanager's configuration to a directory: the one in deploy/, with the receivers that the environment names. A
# configuration that is there already stays, unless the environment names a receiver.
#   ALERT_WEBHOOK_URL=…
#   ALERT_MAIL_TO=… ALERT_MAIL_FROM=… ALERT_MAIL_SERVER=HOST:PORT
. "$(dirname "$0")/lib.sh"

directory=${1:?must be a directory}
config=$directory/alertmanager.yml
url=${ALERT_WEBHOOK_URL:-} to=${ALERT_MAIL_TO:-} from=${ALERT_MAIL_FROM:-} server=${ALERT_MAIL_SERVER:-}
if [ -n "$to$from$server" ] && { [ -z "$to" ] || [ -z "$from" ] || [ -z "$server" ]; }; then
  die "Mail needs all of ALERT_MAIL_TO, ALERT_MAIL_FROM and ALERT_MAIL_SERVER=HOST:PORT."
fi
[ -z "$server" ] || [[ $server = *:* ]] || die "ALERT_MAIL_SERVER=$server: accepted: HOST:PORT, such as mail.example.org:587"
[ -z "$url" ] || [[ $url =~ ^https?:// ]] || die "ALERT_WEBHOOK_URL=$url: accepted: a URL that begins with https:// or http://"
mkdir -p "$directory"
[ ! -e "$config" ] || [ -n "$url$to" ] || exit 0

# The line without its comment sign, with the value as a YAML string.
uncomment() { # NAME VALUE
  local value=${2//\'/\'\'}
  value=${value//\\/\\\\} value=${value//&/\\&} value=${value//|/\\|}
  sed -i "s|^    # \(.*\) $1\$|    \1 '$value'|" "$config.new"
}
(
  umask 077
  cp deploy/alertmanager/alertmanager.yml "$config.new"
)
if [ -n "$url" ]; then
  sed -i 's/^    # \(webhook_configs:\)/    \1/' "$config.new"
  uncomment ALERT_WEBHOOK_URL "$url"
fi
if [ -n "$to" ]; then
  sed -i 's/^    # \(email_configs:\)/    \1/; s/^    # \(    send_resolved: true\)/    \1/' "$config.new"
  uncomment ALERT_MAIL_TO "$to"
  uncomment ALERT_MAIL_FROM "$from"
  uncomment ALERT_MAIL_SERVER "$server"
fi
mv "$config.new" "$config"
