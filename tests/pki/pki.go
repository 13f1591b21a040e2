// Package pki makes certificates for tests: authorities, and what they sign for servers on
// loopback and for their clients.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA signs.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	PEM  []byte // its certificate
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// New is an authority that signed itself.
func New(t testing.TB, name string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := from(name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &CA{key, cert, block("CERTIFICATE", der)}
}

// Pair is a certificate and its key in PEM, for a client, or a server on loopback or of the
// hosts that are named.
func (ca *CA) Pair(t testing.TB, name string, hosts ...string) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := from(name)
	template.DNSNames = hosts
	if hosts == nil {
		template.IPAddresses, template.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, own.Public(), ca.key)
	check(t, err)
	text, err := x509.MarshalPKCS8PrivateKey(own)
	check(t, err)
	return block("CERTIFICATE", der), block("PRIVATE KEY", text)
}

// Write puts files into a directory, which it makes.
func Write(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	for name, content := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
}

func from(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
