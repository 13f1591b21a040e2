package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// grpc speaks to containerd as its client library does: a message in a frame over
// HTTP/2. The dozen calls that are measured need no more, and no module in go.mod.
type grpc struct {
	client http.Client
	lease  string // what is made belongs to it, and goes with it
}

func dialGRPC(socket string) *grpc {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	return &grpc{client: http.Client{Transport: t}}
}

// call sends one message and returns the answer's.
func (g *grpc) call(method string, message ...[]byte) (fields, error) {
	body := bytes.Join(message, nil)
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))) // 0: not compressed
	req, err := http.NewRequest("POST", "http://containerd/containerd.services."+method, bytes.NewReader(append(frame, body...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("Containerd-Namespace", "default")
	if g.lease != "" {
		req.Header.Set("Containerd-Lease", g.lease)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	end := resp.Trailer
	if end.Get("Grpc-Status") == "" {
		end = resp.Header // an error alone comes without a body
	}
	if status := end.Get("Grpc-Status"); status != "0" {
		text, _ := url.PathUnescape(end.Get("Grpc-Message"))
		return nil, fmt.Errorf("%s: grpc status %q: %s", method, status, text)
	}
	if len(data) < 5 {
		return nil, fmt.Errorf("%s: an answer of %d bytes", method, len(data))
	}
	return decode(data[5:])
}

// text and message are protobuf's length-delimited fields.
func text(number int, s string) []byte {
	b := binary.AppendUvarint(nil, uint64(number)<<3|2)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func message(number int, parts ...[]byte) []byte {
	return text(number, string(bytes.Join(parts, nil)))
}

func flagged(number int) []byte { return []byte{byte(number << 3), 1} }

// fields are a message's, by number: its strings and messages, and its numbers.
type fields map[int][]field

type field struct {
	bytes  []byte
	number uint64
}

func (f fields) text(number int) string {
	if len(f[number]) == 0 {
		return ""
	}
	return string(f[number][0].bytes)
}

func decode(b []byte) (fields, error) {
	bad := errors.New("an answer that is no protobuf")
	f := fields{}
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, bad
		}
		b = b[n:]
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, bad
		}
		b = b[n:]
		one := field{number: value}
		switch key & 7 {
		case 0:
		case 2:
			if value > uint64(len(b)) {
				return nil, bad
			}
			one = field{bytes: b[:value]}
			b = b[value:]
		default: // 32 and 64 bits wide: none of the messages has them
			return nil, bad
		}
		f[int(key>>3)] = append(f[int(key>>3)], one)
	}
	return f, nil
}
