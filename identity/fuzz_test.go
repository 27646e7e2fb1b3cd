package identity

import (
	"testing"

	"github.com/weirmesh/weir/internal/redact"
)

// FuzzPEM reads anything as the PEM that a certificate authority, a Secret or a file may give: a bundle of roots and a private
// key. What is taken is the same when it is written and read again.
func FuzzPEM(f *testing.F) {
	root := newForge(&testing.T{}, "root", noon, evening)
	key, err := EncodeKey(root.newKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(EncodeCertificates(root.cert, root.cert))
	f.Add(append([]byte("subject=x\n"), key.Reveal()...))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if b, err := ParseBundle(text); err == nil {
			if again, err := ParseBundle(b.PEM()); err != nil || !again.Equal(b) {
				t.Errorf("written and read again: %v", err)
			}
		}
		if k, err := ParseKey(redact.New(text)); err == nil {
			text, err := EncodeKey(k)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseKey(text); err != nil {
				t.Errorf("written and read again: %v", err)
			}
		}
	})
}
