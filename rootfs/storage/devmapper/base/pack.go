//go:build ignore

// pack keeps the blocks of a file that are not zero, in the form that base.go reads.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"log"
	"os"

	"golang.org/x/sys/unix"
)

const blockSize = 4096

func main() {
	in, err := os.Open(os.Args[1])
	check(err)
	size, err := in.Seek(0, io.SeekEnd)
	check(err)
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	put := func(n int64) { z.Write(binary.AppendUvarint(nil, uint64(n))) }
	put(size)
	var end int64 // of what is written so far, in blocks
	var run []byte
	flush := func(next int64) {
		if len(run) > 0 {
			n := int64(len(run) / blockSize)
			put(next - n - end)
			put(n)
			z.Write(run)
			end, run = next, nil
		}
	}
	zero, b := make([]byte, blockSize), make([]byte, blockSize)
	var last int64
	for at := int64(0); at < size; {
		at, err = unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		check(err)
		hole, err := unix.Seek(int(in.Fd()), at, unix.SEEK_HOLE)
		check(err)
		for at = at &^ (blockSize - 1); at < hole; at += blockSize {
			_, err := in.ReadAt(b, at)
			check(err)
			block := at / blockSize
			if bytes.Equal(b, zero) {
				flush(last)
				continue
			}
			if block != last {
				flush(last)
			}
			run, last = append(run, b...), block+1
		}
	}
	flush(last)
	check(z.Close())
	check(os.WriteFile(os.Args[2], out.Bytes(), 0o644))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
