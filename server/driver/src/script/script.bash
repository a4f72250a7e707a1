# Does what the user's text says, and calls no model. It is started with the session to continue, if there is one.
#
# It reads lines `turn ID`, `> LINE` for each of the user's text, `.`; `interrupt`; `answer ID ANSWER`. It prints lines `began ID SESSION`,
# `piece TEXT`, `said TEXT`, `ask ID TEXT`, `withdrawn ID`, and `end done` or `end interrupted`.
#
# A line of the user's text is said, unless it is one of these:
#   @pieces COUNT [SECONDS]   says that many pieces of text, with a pause before each
#   @wait                     waits until the turn is interrupted
#   @ask TEXT                 asks for consent, and says the answer
session=${1:-}
[ -n "$session" ] || IFS= read -r session </proc/sys/kernel/random/uuid

say() { printf 'piece %s\nsaid %s\n' "$1" "$1"; }

# Waits for that many seconds; succeeds if the turn was interrupted meanwhile. Each answer that comes too late is passed over.
interrupted_within() {
  local order
  IFS= read -r -t "$1" order && [ "$order" = interrupt ]
}

pieces() {
  local left=$1
  if [ -z "${2:-}" ]; then
    yes 'piece word ' | head -n "$left"
    return 0
  fi
  while [ "$left" -gt 0 ]; do
    interrupted_within "$2" && return 1
    echo 'piece word '
    left=$((left - 1))
  done
}

asked=0
ask() {
  local order id
  asked=$((asked + 1)) id=$turn.$asked
  printf 'ask %s %s\n' "$id" "$1"
  while IFS= read -r order; do
    case $order in
      interrupt) echo "withdrawn $id"; return 1 ;;
      "answer $id "*) say "${order#"answer $id "}"; return 0 ;;
    esac
  done
  exit
}

# Does what one line says; fails if the turn was interrupted.
act() {
  case $1 in
    '@pieces '*) read -r _ count pause <<<"$1"; pieces "$count" "$pause" ;;
    @wait) until interrupted_within 3600; do :; done; return 1 ;;
    '@ask '*) ask "${1#@ask }" ;;
    *) say "$1" ;;
  esac
}

while IFS= read -r order; do
  case $order in 'turn '*) turn=${order#turn } ;; *) continue ;; esac
  lines=()
  while IFS= read -r order && [ "$order" != . ]; do lines+=("${order#> }"); done
  echo "began $turn $session"
  end=done
  for line in "${lines[@]}"; do
    act "$line" || { end=interrupted; break; }
  done
  echo "end $end"
done
