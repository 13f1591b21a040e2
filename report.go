package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// report writes the one line about an error: to standard error for whoever looks, and
// to --log in the shape that containerd and Podman parse (the last record with
// level "error").
func report(meta map[string]any, err error) {
	text := shorten(strings.ReplaceAll(err.Error(), "\n", "; "))
	fmt.Fprintln(os.Stderr, "thinrun:", text)
	file, _ := meta["log"].(string)
	if file == "" {
		return
	}
	f, e := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if e != nil {
		fmt.Fprintln(os.Stderr, "thinrun: --log:", e)
		return
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339)
	if meta["log-format"] == "json" {
		json.NewEncoder(f).Encode(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{"error", text, now})
		return
	}
	fmt.Fprintf(f, "time=%q level=error msg=%q\n", now, text)
}

// subject is what an error is about: the command and its first argument.
func subject(path string, c *cli.Context) string {
	first := c.Args().First()
	if first == "" {
		return path
	}
	if len(first) > 64 {
		first = first[:64] + "..."
	}
	return fmt.Sprintf("%s %q", path, first)
}

// shorten bounds an error that quotes what somebody wrote into a config: what happened
// is at both ends.
func shorten(text string) string {
	const end = 1024
	if len(text) <= 2*end {
		return text
	}
	return strings.ToValidUTF8(text[:end], "") + " ... " + strings.ToValidUTF8(text[len(text)-end:], "")
}
