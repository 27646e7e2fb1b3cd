package server

// NewCodec is the codec that GRPCOptions installs.
var NewCodec = newCodec
