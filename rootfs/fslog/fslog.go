// Package fslog reads what a file system wrote into the log of its context (fsopen(2)):
// the errno of an fsconfig(2) alone does not say which option it was about, nor why.
package fslog

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Explain adds to err what the context fd has to say of it: one message for each read,
// "e tmpfs: Bad value for 'size'". They are gone then.
func Explain(fd int, err error) error {
	var said []string
	buf := make([]byte, 512)
	for len(said) < 8 { // as many as the kernel keeps
		n, rerr := unix.Read(fd, buf)
		if rerr == unix.EINTR {
			continue
		}
		if rerr != nil || n == 0 {
			break
		}
		text := strings.TrimSpace(string(buf[:n]))
		if strings.HasPrefix(text, "e ") || strings.HasPrefix(text, "w ") {
			text = text[2:]
		}
		said = append(said, text)
	}
	if said == nil {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(said, "; "))
}
