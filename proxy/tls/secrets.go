package tls

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	stdtls "crypto/tls"
	"encoding/hex"
	"errors"

	_ "crypto/sha256" // for crypto.SHA256, the hash of two suites
	_ "crypto/sha512" // for crypto.SHA384

	"golang.org/x/crypto/chacha20poly1305"
)

// secret is a traffic secret: as long as its suite's hash (RFC 8446, section 7.1).
type secret [48]byte

// secrets takes the application's traffic secrets out of a handshake of crypto/tls, as its
// KeyLogWriter: the one way that package has to let another record layer follow it. They go nowhere
// else, and are cleared when the handshake is done.
type secrets struct {
	client, server secret
	clientLen      int
	serverLen      int
	// sent counts the records that the handshake sealed under the server's secret: session tickets.
	sent uint64
}

var errKeyLog = errors.New("crypto/tls wrote a key log line of an unknown form")

// Write takes one line of the key log: label, client random, secret, the latter two in
// hexadecimal (RFC 9850).
func (k *secrets) Write(line []byte) (int, error) {
	label, rest, _ := bytes.Cut(line, []byte(" "))
	var into *secret
	var length *int
	switch string(label) {
	case "CLIENT_TRAFFIC_SECRET_0":
		into, length = &k.client, &k.clientLen
	case "SERVER_TRAFFIC_SECRET_0":
		into, length = &k.server, &k.serverLen
	default:
		return len(line), nil
	}
	_, text, ok := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
	if !ok || hex.DecodedLen(len(text)) > len(into) {
		return 0, errKeyLog
	}
	n, err := hex.Decode(into[:], text)
	if err != nil {
		return 0, errKeyLog
	}
	*length = n
	return len(line), nil
}

func (k *secrets) clear() {
	if k != nil {
		*k = secrets{}
	}
}

// suite is a cipher suite of TLS 1.3 (RFC 8446, appendix B.4).
type suite struct {
	hash   crypto.Hash
	key    int // bytes
	aead   func(key []byte) (cipher.AEAD, error)
	rekeys bool // has a limit of records a key (RFC 8446, section 5.5)
}

// suites are those that Weir seals itself; of others crypto/tls takes care.
var suites = map[uint16]*suite{
	stdtls.TLS_AES_128_GCM_SHA256:       {crypto.SHA256, 16, newGCM, true},
	stdtls.TLS_AES_256_GCM_SHA384:       {crypto.SHA384, 32, newGCM, true},
	stdtls.TLS_CHACHA20_POLY1305_SHA256: {crypto.SHA256, chacha20poly1305.KeySize, chacha20poly1305.New, false},
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
func (u *suite) expand(secret []byte, label string, n int) ([]byte, error) {
	const prefix = "tls13 "
	info := make([]byte, 0, 32)
	info = append(info, byte(n>>8), byte(n), byte(len(prefix)+len(label)))
	info = append(append(append(info, prefix...), label...), 0)
	return hkdf.Expand(u.hash.New, secret, string(info), n)
}
