package listener

// MadeHello is a small ClientHello, always the same.
func MadeHello(sni string, protos ...string) []byte { return madeHello(sni, protos...) }
