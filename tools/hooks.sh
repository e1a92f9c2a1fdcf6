#!/bin/sh
# Lets git merge notebooks cell by cell, and clean those that are committed. Changes nothing but .git; a hook that is there already stays.
set -eu
hooks=$(git rev-parse --git-path hooks 2>/dev/null) || exit 0
[ "$(git rev-parse --show-toplevel)" = "$(pwd -P)" ] || exit 0
git config merge.nbdev-merge.name "merge notebooks cell by cell"
git config merge.nbdev-merge.driver ".venv/bin/nbdev_merge %O %A %B %P"
hook=$hooks/pre-commit
if [ -e "$hook" ] && ! grep -q nbdev_clean "$hook"; then
    echo "$hook is there already: add the lines of tools/pre-commit to have notebooks cleaned."
    exit 0
fi
mkdir -p "$hooks"
cp tools/pre-commit "$hook"
chmod +x "$hook"
