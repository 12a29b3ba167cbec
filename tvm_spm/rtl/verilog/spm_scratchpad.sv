// The scratchpad of a core: bytes, with a port for the networks, one for the DMA engine and one for the vector unit.
//
// It is written on the rising edge of the clock, and read on the falling edge; nobody reads it on the edge that writes.
module spm_scratchpad #(
    parameter int BYTES = 1024,
    parameter int READS = 3,
    parameter int WRITES = 1,
    parameter int DMA_LANES = 4,
    parameter int VECTOR_LANES = 1
) (
    input logic clk,
    input logic [READS-1:0] read_valid,    // others read zero
    input logic [READS*32-1:0] read_address,
    output logic [READS*32-1:0] read_data,
    input logic [WRITES-1:0] write_valid,
    input logic [WRITES*32-1:0] write_address,
    input logic [WRITES*32-1:0] write_data,
    input logic [3:0] write_bytes,
    input logic [DMA_LANES-1:0] dma_valid,
    input logic dma_writes,
    input logic [3:0] dma_bytes,
    input logic [DMA_LANES*32-1:0] dma_address,
    input logic [DMA_LANES*32-1:0] dma_wdata,
    output logic [DMA_LANES*32-1:0] dma_rdata,
    input logic [VECTOR_LANES-1:0] vector_works,
    input logic [VECTOR_LANES*32-1:0] vector_address,
    output logic [VECTOR_LANES*32-1:0] vector_rdata,
    input logic [VECTOR_LANES-1:0] vector_valid,
    input logic [3:0] vector_bytes,
    input logic [VECTOR_LANES*32-1:0] vector_wdata
);
`ifdef VERILATOR
`define INTO =
`else
`define INTO <=
`endif
  /* verilator lint_off BLKSEQ */
  /* verilator lint_off WIDTHCONCAT */     // networks of hundreds of elements a cycle are as wide as they seem
  localparam int AW = $clog2(BYTES);
  logic [7:0] bytes[0:BYTES-1];

  always_ff @(negedge clk) begin
    logic [READS*32-1:0] read;
    logic [DMA_LANES*32-1:0] stored;
    logic [VECTOR_LANES*32-1:0] sums;
    read = '0;
    stored = '0;
    sums = '0;
    if (|read_valid)
      for (int port = 0; port < READS; port++)
        if (read_valid[port])
          for (int b = 0; b < 4; b++) read[port*32+b*8+:8] = bytes[AW'(read_address[port*32+:32]+32'(b))];
    if (!dma_writes)
      for (int lane = 0; lane < DMA_LANES; lane++)
        if (dma_valid[lane])
          for (int b = 0; b < 4; b++) stored[lane*32+b*8+:8] = bytes[AW'(dma_address[lane*32+:32]+32'(b))];
    if (|vector_works)
      for (int lane = 0; lane < VECTOR_LANES; lane++)
        if (vector_works[lane])
          for (int b = 0; b < 4; b++) sums[lane*32+b*8+:8] = bytes[AW'(vector_address[lane*32+:32]+32'(b))];
    read_data <= read;
    dma_rdata <= stored;
    vector_rdata <= sums;
  end

  always_ff @(posedge clk) begin
    if (|write_valid)
      for (int lane = 0; lane < WRITES; lane++)
        if (write_valid[lane])
          for (int b = 0; b < 4; b++)
            if (4'(b) < write_bytes) bytes[AW'(write_address[lane*32+:32]+32'(b))] `INTO write_data[lane*32+b*8+:8];
    if (|vector_valid)
      for (int lane = 0; lane < VECTOR_LANES; lane++)
        if (vector_valid[lane])
          for (int b = 0; b < 4; b++)
            if (4'(b) < vector_bytes) bytes[AW'(vector_address[lane*32+:32]+32'(b))] `INTO vector_wdata[lane*32+b*8+:8];
    if (dma_writes)
      for (int lane = 0; lane < DMA_LANES; lane++)
        if (dma_valid[lane])
          for (int b = 0; b < 4; b++)
            if (4'(b) < dma_bytes) bytes[AW'(dma_address[lane*32+:32]+32'(b))] `INTO dma_wdata[lane*32+b*8+:8];
  end
endmodule
`undef INTO
