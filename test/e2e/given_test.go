package e2e_test

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
)

// A certificate in a file, which its proxy alone can read, is on the horizon with the object and the field that name it, and is said again when it
// is replaced. When a key or a revocation is in a file, nothing is said of it.
func TestHorizonKnowsFilesOfProxies(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	held := foreign(t, "us.example")
	key, err := identity.EncodeKey(held.PrivateKey.(crypto.Signer))
	must(t, err)
	dir := t.TempDir()
	chain, private := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: held.Certificate[0]}), 0o600))
	must(t, os.WriteFile(private, key.Reveal(), 0o600))
	m.Config("rule.yaml", destinationRule("bank", "{host: echo, trafficPolicy: {tls: {mode: MUTUAL, insecureSkipVerify: true, clientCertificate: "+chain+", privateKey: "+private+"}}}"))
	m.Eventually("the horizon is the file's end", func() error {
		v, err := m.API().Identity(t.Context())
		if err != nil {
			return err
		}
		if h := v.Horizon; h == nil || h.Object != "DestinationRule default/bank" || h.Field != "spec.trafficPolicy.tls.clientCertificate" || !h.At.Equal(held.Leaf.NotAfter.Truncate(time.Second)) {
			return fmt.Errorf("%+v", h)
		}
		if len(v.Given) != 1 || v.Given[0].Workloads[0] != client.Namespace+"/"+client.Name {
			return fmt.Errorf("%+v", v.Given)
		}
		return nil
	})
	m.Remove("rule.yaml")
	m.Eventually("what nobody reads any more is on no horizon", func() error {
		v, err := m.API().Identity(t.Context())
		if err == nil && v.Horizon != nil {
			err = errors.New(v.Horizon.What)
		}
		return err
	})
}
